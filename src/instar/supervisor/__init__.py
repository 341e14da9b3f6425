"""The supervisor: owns listeners and generations, and hands over from one to the next."""
