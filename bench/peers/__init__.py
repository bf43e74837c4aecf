"""What others do with the same store: queues whose users delay and gather messages with them."""
