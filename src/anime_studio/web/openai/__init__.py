"""`/v1/videos`: OpenAI's video API on the same use cases."""
