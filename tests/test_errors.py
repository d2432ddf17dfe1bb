from finetune.errors import first_line


def test_the_first_line_of_an_error_has_no_colors():
    assert first_line(ValueError("\x1b[96mstep 2/3\x1b[0m failed\nbecause")) == "ValueError: step 2/3 failed"
