"""One publisher of one stream: ids, frames, what is in flight, and confirms."""
