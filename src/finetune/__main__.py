"""`finetune VERB …` and `python -m finetune VERB …`."""

from finetune import signals

signals.exit_on_interrupt()  # before anything else is imported: only a program imports this module


def main() -> None:
    """Run the command line; Ctrl-C and closed streams are handled before the libraries behind it are imported."""
    import sys

    from finetune import native_libraries, streams

    streams.install()
    native_libraries.set_defaults()
    verb, words = sys.argv[1:2], sys.argv[2:]
    # Both take every argument as it is, so Typer, whose import takes a quarter of the time of `check`, is not needed.
    # Except after `--`, which Typer removes.
    if "--" not in words:
        if verb == ["train"]:
            from finetune.cli.train import main as train

            sys.exit(train(words))
        if verb == ["check"]:
            from finetune.cli.train import check

            sys.exit(check(words))
    from finetune.cli.app import main as cli

    cli()


if __name__ == "__main__":
    main()
