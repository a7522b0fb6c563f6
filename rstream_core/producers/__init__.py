"""What a program publishes with: ``Producer`` and ``SuperStreamProducer``, above one publisher for each stream."""
