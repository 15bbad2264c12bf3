"""What a device can do: features, capabilities, roofline constants."""
