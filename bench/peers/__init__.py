"""What we are compared with, where that is no program of somebody else's. Started as processes of their own."""
