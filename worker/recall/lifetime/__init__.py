"""What a customer will still order and be worth, from how often and how lately he ordered."""
