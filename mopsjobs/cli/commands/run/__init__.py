"""Commands that submit and steer."""
