"""What the touches have brought, by the users who were held out: `recall report`."""
