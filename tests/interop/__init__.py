"""The clients of other languages against both brokers: what they write and read, and what this client does."""
