"""Serve models over HTTP.

A request's body is counted while it arrives (`http.request_body`), decoded in processes that can be killed
(`decode_pool`), predicted in batches by one thread (`batching`, `inference_engine`), and returned as JSON
(`http.schemas`). `service` orders these steps; `serve` loads the models, and `server` runs the process.
"""
