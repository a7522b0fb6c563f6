"""A client of RabbitMQ's management HTTP API, for what the stream protocol cannot tell: names, policies, who reads.

It stands in the command line and not in the core: only commands for people ask for it, and a program that publishes or
consumes needs no HTTP. The HTTP library is urllib3, imported by http_client.py alone, with the first request.
"""
