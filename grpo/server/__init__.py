"""The local stand-in for Bedrock's fine-tuning API. The API process never imports torch."""
