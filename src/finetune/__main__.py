"""`finetune VERB …` and `python -m finetune VERB …`."""

from finetune import interrupts, native_libraries


def main() -> None:
    """Run the command line; Ctrl-C is answered before the libraries behind it are there."""
    interrupts.end_at_once()
    native_libraries.set_defaults()
    from finetune.cli import main as cli

    cli()


if __name__ == "__main__":
    main()
