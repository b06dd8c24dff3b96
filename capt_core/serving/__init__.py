"""A trained model as a small HTTP service with one page; needs the extra ``[serve]``."""
