"""Text and dialogues in, token ids and labels out."""
