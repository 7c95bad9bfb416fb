/* qwen25_template.h: a chat template that renders as Qwen2.5's does, with this default system
 * message, written for the tests. */
#ifndef QWEN25_TEMPLATE_H
#define QWEN25_TEMPLATE_H

#define QWEN25_TEMPLATE(system)                                                                    \
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}"          \
    "{{- messages[0].content }}{%- else %}{{- '" system "' }}{%- endif %}"                         \
    "{{- '\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user query."    \
    "\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>' " \
    "}}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}"                      \
    "{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and "   \
    "arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\"name\": "               \
    "<function-name>, \"arguments\": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}"          \
    "{%- elif messages[0].role != 'system' %}{{- '<|im_start|>system\\n" system "<|im_end|>\\n' "  \
    "}}{%- endif %}{%- for message in messages %}{%- if message.role == 'tool' %}"                 \
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}"    \
    "{%- endif %}{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"         \
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}"        \
    "{%- endif %}{%- elif message.tool_calls %}{{- '<|im_start|>' + message.role }}"               \
    "{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}"                          \
    "{%- for call in message.tool_calls %}{{- '\\n<tool_call>\\n{\"name\": \"' + "                 \
    "call.function.name + '\", \"arguments\": ' + call.function.arguments | tojson + "             \
    "'}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}"                                     \
    "{%- elif not (tools and loop.first and message.role == 'system') %}"                          \
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"             \
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"    \
    "{%- endif %}"

#endif
