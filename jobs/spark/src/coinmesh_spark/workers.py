"""PySpark's daemon with the tasks' modules imported, so that forked workers start at once.

The imports take 2.7 s of CPU; PySpark's own daemon leaves them to each worker. No connection and no
thread pool exists before a task runs: imports start only housekeeping threads of jemalloc, which
handles forks, and of polars' spilling to disk, which isn't used.
"""

from pyspark import daemon

from coinmesh_spark import archive_task, fold_task

__all__ = ["archive_task", "fold_task"]

if __name__ == "__main__":
    daemon.manager()
