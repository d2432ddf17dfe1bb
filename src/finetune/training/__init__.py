"""One run: the module, the micro-batch engine, the callbacks, `fit`."""
