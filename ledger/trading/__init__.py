"""What an account may ask beyond limit orders: triggers, deadlines, quotes, protection, sessions, requests. Pure."""
