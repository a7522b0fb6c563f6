"""What a program reads with: ``Consumer`` and ``SuperStreamConsumer``, above one subscription for each stream."""
