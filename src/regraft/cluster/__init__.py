"""Run independent tasks in this process, or many at once on a Ray cluster.

`executor` has the interface and chooses, `connection` reaches a cluster, `ray_executor` runs tasks there. Ray is
imported only where a cluster is used.
"""
