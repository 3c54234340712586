"""The demo: the whole way from pictures to a measured dual encoder, on packaged real data."""
