"""A model that answers over HTTP.

Enters: models as engines, with what the page says of them. Leaves: answers, a page for people, and an exit code.
A request's bytes are counted as they come (`intake`), decoded in processes that can be killed (`decoding`), answered in
batches by one thread (`batching`, `engines`), and described by `answers`; `service` is the order of it. `app` and
`inference_protocol` are its addresses, `guard` stands before all of them, `connections` before the guard.
"""
