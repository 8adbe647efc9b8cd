"""The drop folder: what is put there goes to the gateway by C-STORE."""
