"""What happens in each of the known holes, as prose, and the test that it still does."""
