# What `coinmesh-vault setup` may do: build the mounts below and write policies, nothing of sys beside.
path "sys/mounts"          { capabilities = ["read"] }
path "sys/mounts/*"        { capabilities = ["create", "read", "update"] }
path "sys/auth"            { capabilities = ["read"] }
path "sys/auth/*"          { capabilities = ["create", "read", "update", "sudo"] }
path "sys/policies/acl/*"  { capabilities = ["create", "read", "update", "delete", "list"] }
path "sys/policies/acl"    { capabilities = ["list"] }
path "pki/*"               { capabilities = ["create", "read", "update", "list", "sudo"] }
path "pki_int/*"           { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }
path "auth/approle/*"      { capabilities = ["create", "read", "update", "delete", "list"] }
path "auth/kubernetes/*"   { capabilities = ["create", "read", "update", "delete", "list"] }
path "auth/users/*"        { capabilities = ["create", "read", "update", "delete", "list"] }
path "identity/*"          { capabilities = ["create", "read", "update", "delete", "list"] }
path "kv/*"                { capabilities = ["create", "read", "update", "delete", "list"] }
path "transit/*"           { capabilities = ["create", "read", "update", "list"] }
