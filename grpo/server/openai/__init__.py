"""The OpenAI dialect: translates requests and answers, decides nothing."""
