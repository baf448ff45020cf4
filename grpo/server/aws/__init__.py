"""Amazon's own APIs, by the names and shapes of botocore's service models."""
