"""The manifests of the mesh's own services, jobs and simulators."""
