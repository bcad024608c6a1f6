"""Composition root of a laptop: the HTTP server here, one supervised worker process beside it.

`server` serves HTTP and stores jobs, `supervisor` restarts the worker when it dies, `worker_process`
renders, and `data_dir` is the folder that both processes share.
"""
