"""The chat on the network: OpenAI's protocol and a page."""
