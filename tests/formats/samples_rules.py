"""What each harness writes around the world's words: texts of our own making, cut as they have to be cut."""

from __future__ import annotations

B = "tool_result"
TIMED_OUT = "<exception>An error occurred: Command 'x' timed out after 2 seconds</exception>\n"
TRAILER = "\n(Open file: n/a)\n(Current directory: /r)\n"
OLD_TIMEOUT = "EXECUTION TIMED OUT BECAUSE NO OUTPUT WAS PRODUCED.\nPLEASE REFINE YOUR RUNNING COMMAND NOW."
CANCELLED = "The command 'sleep 9' was cancelled because it took more than 3 seconds. Please try a different command."
MINI_TIMEOUT = (
    "The last command <command>x</command> timed out and has been killed.\nThe output of the command was:\n <output>\n"
)

TERMINUS_TIMEOUT = (
    "Previous command:\nsleep 9\n\nThe previous command timed out after 5.0 seconds\n\nIt may go on.\n\n"
    "Here is the current state of the terminal:\n\n"
)
INSPECT_LONG = "The output of your call to bash was too long.\nHere is a truncated version:\n<START_TOOL_OUTPUT>\n"

CUT: list[tuple[str, list[tuple[str, str]]]] = [
    (
        "mini-swe-agent",
        [
            ("timeout_notice", TIMED_OUT),
            ("status", "<returncode>-1</returncode>\n"),
            ("wrapper", "<output>\n"),
            (B, "a"),
            ("wrapper", "</output>"),
        ],
    ),
    (
        "mini-swe-agent",
        [
            ("status", "<exception>no such file</exception>\n"),
            ("status", "<returncode>1</returncode>\n"),
            ("wrapper", "<output>\n"),
            ("wrapper", "</output>"),
        ],
    ),
    (
        "mini-swe-agent",
        [
            ("status", "<returncode>0</returncode>\n"),
            ("truncation_notice", "<warning>\nToo long.\n</warning>"),
            ("wrapper", "<output_head>\n"),
            (B, "1\n"),
            ("wrapper", "</output_head>\n"),
            ("truncation_notice", "<elided_chars>\n9 characters elided\n</elided_chars>\n"),
            ("wrapper", "<output_tail>\n"),
            (B, "9\n"),
            ("wrapper", "</output_tail>"),
        ],
    ),
    (
        "mini-swe-agent",
        [("format_warning", "Please always provide EXACTLY ONE action in triple backticks, found 2 actions.\nFix it.")],
    ),
    ("mini-swe-agent", [("format_warning", "Tool call error:\n\n<error>\nNo tool calls.\n</error>")]),
    (
        "mini-swe-agent",
        [("format_warning", "Your previous response reached the output token limit (finish_reason=length).")],
    ),
    (
        "mini-swe-agent",
        [
            ("timeout_notice", MINI_TIMEOUT),
            (B, "part"),
            ("timeout_notice", "\n</output>\nPlease try another command and avoid interactive input."),
        ],
    ),
    ("mini-swe-agent", [("harness_notice", "Command not executed. The user rejected your command: no")]),
    ("swe-agent", [("wrapper", "OBSERVATION:\n"), (B, "a.py"), ("status", TRAILER + "bash-$")]),
    (
        "swe-agent",
        [("wrapper", "Observation: "), (B, "a.py"), ("status", TRAILER + "(Interactive session: n/a)\nbash-$")],
    ),
    (
        "swe-agent",
        [
            ("status", "Your command ran successfully and did not produce any output.\n"),
            ("status", TRAILER[1:] + "bash-$"),
        ],
    ),
    ("swe-agent", [("status", "Your last command ran successfully and did not produce any output.")]),
    (
        "swe-agent",
        [
            (B, "long"),
            ("truncation_notice", "<response clipped><NOTE>Observations should not exceeded 9 characters.</NOTE>"),
        ],
    ),
    ("swe-agent", [("truncation_notice", "Old environment output: (12 lines omitted)")]),
    ("swe-agent", [(B, "part\n"), ("timeout_notice", CANCELLED)]),
    ("swe-agent", [(B, "part\n"), ("timeout_notice", OLD_TIMEOUT)]),
    ("swe-agent", [("format_warning", "Your output was not formatted correctly. You must.\nDISCUSSION")]),
    ("swe-agent", [("format_warning", "Your last output did not use any tool calls!\nPlease do.")]),
    ("swe-agent", [("format_warning", "Your action could not be parsed properly: bad.")]),
    (
        "swe-agent",
        [("format_warning", "Your bash command contained syntax errors and was NOT executed. Here:\nline 1")],
    ),
    ("swe-agent", [("format_warning", "Operation 'vim x' is not supported by this environment.")]),
    ("swe-agent", [("harness_notice", "Exited (autosubmitted)")]),
    (
        "openhands",
        [
            ("wrapper", "EXECUTION RESULT of [execute_bash]:\n"),
            (B, "a\n"),
            ("status", "[Command finished with exit code 0]"),
        ],
    ),
    (
        "openhands",
        [
            (B, "a\n"),
            ("status", "[The command completed with exit code 1.]\n"),
            ("status", "[Current working directory: /w]\n"),
            ("status", "[Python interpreter: /p]"),
        ],
    ),
    ("openhands", [(B, "a\r\n"), ("shell_prompt", "root@4f:/workspace # ")]),
    ("openhands", [(B, "a\n"), ("status", "[Command -1 finished with exit code 0]")]),
    ("openhands", [(B, "a\n"), ("truncation_notice", "[... Observation truncated due to length ...]"), (B, "\nz")]),
    (
        "openhands",
        [
            ("timeout_notice", "[Below is the output of the previous command.]\n"),
            (B, "a\n"),
            ("timeout_notice", "[The command timed out after 120.0 seconds. You may wait.]"),
        ],
    ),
    ("openhands", [(B, "a\n"), ("timeout_notice", "[The command has no new output after 10 seconds. You may wait.]")]),
    (
        "openhands",
        [(B, "a\n"), ("format_warning", '[Your command "x" is NOT executed. The previous command is still running.]')],
    ),
    ("openhands", [(B, "E\n"), ("format_warning", "[Error occurred in processing last action]")]),
    ("openhands", [("format_warning", "Cannot execute multiple commands at once.\nUse && instead.")]),
    (
        "openhands",
        [("harness_notice", "Please continue working on the task on whatever approach you think is suitable.\n")],
    ),
    ("terminus", [("format_warning", "Previous response had parsing errors:\nERROR: x\n\nPlease fix these issues.")]),
    (
        "terminus",
        [
            ("format_warning", "Previous response had warnings:\n- Extra text\n\n"),
            ("status", "New Terminal Output:\n\n"),
            (B, "a"),
        ],
    ),
    (
        "terminus",
        [
            ("status", "Current terminal state:\n"),
            ("status", "Current Terminal Screen:\n"),
            (B, "a\n\n"),
            ("harness_notice", "Are you sure you want to mark the task as complete? It will be graded."),
        ],
    ),
    (
        "terminus",
        [
            (B, "a\n"),
            ("truncation_notice", "[... output limited to 10000 bytes; 25 interior bytes omitted ...]"),
            (B, "\nz"),
        ],
    ),
    ("terminus", [("timeout_notice", TERMINUS_TIMEOUT), (B, "tick")]),
    ("terminus", [("timeout_notice", "The previous command timed out after 5.0 seconds\n"), (B, "tick")]),
    ("terminus", [("format_warning", "ERROR!! NONE of the actions you just requested were performed ")]),
    ("terminus", [("harness_notice", "Technical difficulties. Please continue with the task.")]),
    (
        "terminus",
        [
            ("status", "New Terminal Output:\n\n"),
            ("command_echo", "root@4f:/app# ls\n"),
            (B, "a.py\n"),
            ("shell_prompt", "root@4f:/app# \n"),
            (B, "\n"),
        ],
    ),
    (
        "echo-rl",
        [
            ("harness_notice", "WARNINGS:\n- Extra text before the JSON.\n- Two blocks.\n\n"),
            ("status", "Command 'ls' executed successfully. Output: "),
            (B, "a.py"),
            ("status", "\n(exit_code=0)"),
        ],
    ),
    ("echo-rl", [("status", "Command 'cat q' failed. Output: "), (B, "cat: q: none "), ("status", "(exit_code=1)")]),
    ("echo-rl", [("timeout_notice", "Command 'sleep 9' timed out after 5 seconds.")]),
    ("echo-rl", [("format_warning", "No commands provided in the response.")]),
    (
        "codeact",
        [
            ("wrapper", "Observation:\n"),
            (B, "4\n"),
            ("grader", "Your answer is wrong.\n"),
            ("harness_notice", "You have 3 steps left and 1 chances to propose solution left."),
        ],
    ),
    ("codeact", [("wrapper", "The output of the OS:\n\n"), (B, "a.py")]),
    ("inspect", [("truncation_notice", INSPECT_LONG), (B, "a"), ("truncation_notice", "\n<END_TOOL_OUTPUT>")]),
    ("inspect", [("timeout_notice", "Command timed out before completing.")]),
    ("inspect", [("harness_notice", "Please proceed to the next step using your best judgement. If done, submit.")]),
    ("inspect", [("format_warning", "Error parsing the following tool call arguments:\n{")]),
    ("verifiers-rlm", [(B, "4"), ("status", "\n[Execution time: 0.44s]")]),
    ("textarena", [(B, "X Y G"), ("harness_notice", "\n[GAME] [crane]")]),
    (
        "hermes",
        [
            ("wrapper", "<tool_response>\n"),
            (B, "1"),
            ("wrapper", "\n</tool_response>"),
            ("wrapper", "\n<tool_response>\n"),
            (B, "2"),
            ("wrapper", "\n</tool_response>"),
        ],
    ),
    ("claude-code", [(B, "1\tx"), ("harness_notice", "\n\n<system-reminder>\nBe good.\n</system-reminder>\n")]),
    (
        "claude-code",
        [("wrapper", "<tool_use_error>"), (B, "File has not been read."), ("wrapper", "</tool_use_error>")],
    ),
    ("claude-code", [("harness_notice", "[Request interrupted by user for tool use]")]),
    ("claude-code", [("harness_notice", "The user doesn't want to proceed with this tool use. Stop.")]),
    ("claude-code", [("truncation_notice", "[Old tool result content cleared]")]),
    ("codex", [("status", "Exit code: 0\nWall time: 0.1 seconds\nOutput:\n"), (B, "a.py\n")]),
    ("codex", [("status", "Exit code: 1\nOutput:\n"), (B, "none\n")]),
    (
        "codex",
        [
            ("status", "Exit code: 0\nWall time: 1 seconds\nTotal output lines: 900\nOutput:\n"),
            (B, "1\n"),
            ("truncation_notice", "[... omitted 700 of 900 lines ...]\n"),
            (B, "900\n"),
        ],
    ),
    ("codex", [("timeout_notice", "command timed out after 1000 milliseconds\n"), (B, "tick")]),
    ("codex", [("format_warning", "failed to parse function arguments: EOF")]),
    ("codex", [("harness_notice", "exec command rejected by user")]),
]

LEFT: list[tuple[str, str]] = [
    ("mini-swe-agent", "print('<returncode>0</returncode>')\n"),
    ("mini-swe-agent", "a\n<warning>\nfrom an XML file\n</warning>\n<output>\nx"),
    ("mini-swe-agent", "> Please always provide EXACTLY ONE action"),
    ("swe-agent", "the OBSERVATION:\nof a star"),
    ("swe-agent", "(Open file: a)\nno directory\nbash-$ ls"),
    ("swe-agent", "grep: Your command ran successfully and did not produce any output."),
    ("swe-agent", "# Old environment output: (3 lines omitted)\nx = 1"),
    ("swe-agent", "the command 'x' was cancelled because it took more than 3 seconds"),
    ("openhands", "log: EXECUTION RESULT of [x]:\n1"),
    ("openhands", "x [Command finished with exit code 0]"),
    ("openhands", "[Current working directories: 3]"),
    ("openhands", "echo Please continue working on the task"),
    ("terminus", "mail bob@example.com: costs $ 5"),
    ("terminus", "git@github.com:x/y.git # a remote"),
    ("terminus", "> New Terminal Output:\n"),
    ("terminus", "[... output limited to many bytes ...]"),
    ("echo-rl", "The WARNINGS:\n- one\n"),
    ("echo-rl", "log\nCommand 'ls' executed successfully. Output: x"),
    ("echo-rl", "(exit_code=0) was returned"),
    ("codeact", "Observations:\n1"),
    ("codeact", "You have 3 steps left and 1 chances to propose solution left. Or so it said.\nx"),
    ("inspect", "<START_TOOL_OUTPUT> alone"),
    ("inspect", "echo Please proceed to the next step"),
    ("verifiers-rlm", "[Execution time: fast]"),
    ("textarena", "[GAME] crane"),
    ("hermes", "see <tool_response> in the manual"),
    ("claude-code", "<system-reminder> unclosed"),
    ("codex", "The Exit code: 0\nOutput:\nx"),
    ("codex", "Exit code: 0\nno output header"),
]
