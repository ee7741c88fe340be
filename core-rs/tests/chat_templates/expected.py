"""Writes expected.json: what transformers' chat templating makes of the templates beside this file.

    python expected.py > expected.json        (transformers 5, jinja2 3.1)
"""

import json
import pathlib

from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = pathlib.Path(__file__).parent
TOOLS = [
    {
        "type": "function",
        "name": "find",
        "function": {
            "name": "find",
            "description": "Find <things> & 'names', \"é\".",
            "parameters": {"type": "object", "properties": {}, "required": []},
        },
    }
]


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


MESSAGES = {
    "user": [{"role": "user", "content": "hello big world"}],
    "system": [{"role": "system", "content": " Be brief. \n"}, {"role": "user", "content": "it's <ok> & fine"}],
    "thoughts": [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "<think>\nfirst\n</think>\n\nanswer one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "<think>\nsecond\n</think>\n\nanswer two"},
    ],
    "one_call": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": None, "tool_calls": [call("find", x=1.0, y=[True, None, 1e-7], z="'q'")]},
        {"role": "tool", "content": '{"ok": 2.0}'},
    ],
    "two_calls": [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "Wait.", "tool_calls": [call("find", a=1), call("find")]},
        {"role": "tool", "content": "r1"},
        {"role": "tool", "content": "r2"},
        {"role": "assistant", "content": "<think>hm</think>done"},
    ],
    "by_position": [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "", "tool_calls": [call("by_position", a=1, b=2.5, c=True, d=None, e=[1, "x"])]},
    ],
    "stop": [{"role": "user", "content": "stop"}, {"role": "assistant", "content": "never seen"}],
}


def cases(template):
    for name, messages in MESSAGES.items():
        for tools in [None, TOOLS]:
            for prompt, thinking in [(True, False), (True, True), (False, False)]:
                case = {"messages": messages, "tools": tools, "add_generation_prompt": prompt, "enable_thinking": thinking}
                try:
                    result = {"text": template.render(documents=None, bos_token="<|bos|>", eos_token="<|eos|>", **case)}
                except Exception as error:
                    result = {"error": str(error)}
                yield f"{name}{'_tools' if tools else ''}{'_prompt' if prompt else ''}{'_thinking' if thinking else ''}", case | result



out = {}
for file in sorted(HERE.glob("*.jinja")):
    out[file.stem] = dict(cases(_compile_jinja_template(file.read_text())))
styles = []
for style, results in out.items():
    lines = [f"  {json.dumps(name)}: {json.dumps(case, ensure_ascii=False)}" for name, case in results.items()]
    styles.append(f" {json.dumps(style)}: {{\n" + ",\n".join(lines) + "\n }")
print("{\n" + ",\n".join(styles) + "\n}")
