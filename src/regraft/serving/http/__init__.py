"""HTTP: requests become calls of the service; its results become responses, pages and the OpenAPI document."""
