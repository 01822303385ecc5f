"""`fathom serve` asked by OpenAI's own Python package, as it comes: completions, chats, streams, errors, many clients at once. What the engine
says by itself, through fathom's Python package, is the yardstick."""
import asyncio
import math
import time

import fathom as engine
import numpy as np
import openai
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from conftest import serving

PROMPT = "row 3999: "
Q = {"81": 100}  # the byte Q and no other
NEAR = 1e-3


@pytest.fixture(scope="module")
def run(fathom, tmp_path_factory):
    """A routed model over bytes, of a text with much to say at temperature 0."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "text.txt").write_text("".join(f"row {i}: {i * i % 97} and {i * 7 % 13}\n" for i in range(4000)))
    fathom("train", "--data", folder / "text.txt", "--out", folder / "run", "--steps", 60, "--layers", 4, "--dim", 64, "--heads", 4, "--kv-heads", 2,
           "--ffn", 96, "--seq-len", 1024, "--batch", 2, "--lr", "5e-3", "--eval-tokens", 1024, "--mod", "topk", "--mod-capacity", "0.25",
           "--threads", 1)
    return folder / "run"


@pytest.fixture(scope="module")
def model(run):
    return engine.Model.load(run, threads=1)


@pytest.fixture(scope="module")
def address(run):
    with serving(run) as address:
        yield address


@pytest.fixture
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def complete(client):
    return lambda prompt=PROMPT, **more: client.completions.create(model="run", prompt=prompt, **{"max_tokens": 40, **more})


@pytest.fixture
def chat(client):
    def ask(content="row 17:", **more):
        return client.chat.completions.create(model="run", messages=[{"role": "user", "content": content}], **{"max_completion_tokens": 30, **more})

    return ask


def generated(model, prompt=PROMPT, **options):
    return "".join(model.generate(prompt, **{"max_tokens": 40, "temperature": 0, **options}))


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


# --- completions ---


def test_completion(complete, model):
    answer = complete(temperature=0)
    assert answer.choices[0].text == generated(model)
    assert (answer.object, answer.model, answer.choices[0].finish_reason) == ("text_completion", "run", "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (10, 40, 50)
    assert abs(answer.created - time.time()) < 60


def test_prompts(complete, model):
    """One text, several, ids, several lists of ids: the same answers."""
    prompts = [PROMPT, "row 1", "1"]
    expected = [generated(model, p) for p in prompts]
    for given in prompts, [list(p.encode()) for p in prompts]:
        answer = complete(given, temperature=0)
        assert [c.text for c in sorted(answer.choices, key=lambda c: c.index)] == expected
        assert [complete(p, temperature=0).choices[0].text for p in given] == expected
    answer = complete(prompts, temperature=0, n=2)
    assert [c.text for c in answer.choices] == [e for e in expected for _ in range(2)]
    assert answer.usage.prompt_tokens == sum(map(len, prompts))


def test_stop(complete, model):
    whole = generated(model)
    at = whole.index("\n")
    for stop in "\n", ["#", "\n"]:
        choice = complete(temperature=0, stop=stop).choices[0]
        assert (choice.text, choice.finish_reason) == (whole[:at], "stop")


def test_seed(complete, model):
    first, second = (complete(seed=7, n=4) for _ in range(2))
    texts = [c.text for c in first.choices]
    assert texts == [c.text for c in second.choices] and len(set(texts)) > 1
    assert texts == [generated(model, temperature=1, seed=7 + i) for i in range(4)]
    assert len({complete(temperature=1.5).choices[0].text for _ in range(3)}) > 1


@pytest.mark.parametrize("options", [dict(logit_bias={"49": -100, "50": 5}), dict(frequency_penalty=1.5), dict(presence_penalty=2),
                                     dict(frequency_penalty=-2, presence_penalty=-1), dict(top_p=0.5, temperature=1, seed=3)])
def test_sampling_options(options, complete, model):
    ours = {**options, "logit_bias": {int(id): -math.inf if bias == -100 else bias for id, bias in options.get("logit_bias", {}).items()}}
    text = complete(**{"temperature": 0, **options}).choices[0].text
    assert text == generated(model, **ours) != generated(model)


def test_logit_bias_of_100(complete):
    assert complete(max_tokens=5, logit_bias=Q).choices[0].text == "QQQQQ"


def test_logprobs(complete, model):
    """With echo those of the prompt too: each is what the engine's logits say, the likeliest are the likeliest."""
    prompt = "row 31: é and"
    choice = complete(prompt, temperature=0, max_tokens=8, echo=True, logprobs=5).choices[0]
    assert choice.text.startswith(prompt)
    ids = model.encode(choice.text)
    expected = log_softmax(model.logits(ids))
    l = choice.logprobs
    assert len(l.tokens) == len(l.token_logprobs) == len(l.top_logprobs) == len(l.text_offset) == len(ids) == len(prompt.encode()) + 8
    assert l.token_logprobs[0] is None and l.top_logprobs[0] is None
    assert l.token_logprobs[1:] == pytest.approx([expected[i, id] for i, id in enumerate(ids[1:])], abs=NEAR)
    for i, top in enumerate(l.top_logprobs[1:]):
        assert 5 <= len(top) <= 6 and top[l.tokens[i + 1]] == l.token_logprobs[i + 1]
        assert sorted(top.values())[-5:] == pytest.approx(np.sort(expected[i])[-5:], abs=NEAR)
    assert "".join(l.tokens[:8]) == prompt[:8] and l.tokens[8] == "bytes:\\xc3" and l.text_offset[:11] == [*range(9), 9, 9]


def test_echo(complete, model):
    assert complete(temperature=0, echo=True).choices[0].text == PROMPT + generated(model)
    answer = complete(echo=True, max_tokens=0)
    assert (answer.choices[0].text, answer.usage.completion_tokens) == (PROMPT, 0)


def test_stream(complete):
    options = dict(seed=5, n=2, logprobs=2)
    whole, chunks = complete(**options), list(complete(**options, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        parts = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text and len(parts) > 10
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + ["length"]
        values = [v for part in parts if part.logprobs for v in part.logprobs.token_logprobs]
        assert values == pytest.approx(choice.logprobs.token_logprobs, abs=NEAR)
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 80 and all(c.usage is None for c in chunks[:-1])
    assert len({(c.id, c.model, c.object) for c in chunks}) == 1
    assert all(c.usage is None for c in complete(stream=True))


def test_extensions(complete):
    """What is fathom's own goes in by extra_body and comes out beside the rest."""
    choice = complete(temperature=0, extra_body={"routing": True, "top_k": 3}).choices[0]
    assert len(choice.depth_before) == 40 and 0 <= choice.routed_fraction <= 1


# --- chats ---


def plain(*messages):
    return "".join(f"{role}: {content}\n" for role, content in messages) + "assistant:"


def test_chat(chat, model):
    answer = chat(temperature=0)
    choice = answer.choices[0]
    assert (answer.object, choice.message.role, choice.message.refusal, choice.message.tool_calls) == ("chat.completion", "assistant", None, None)
    expected = generated(model, plain(("user", "row 17:")), max_tokens=30, stop="\nuser:")
    assert choice.message.content == expected and choice.finish_reason == "length"
    assert answer.usage.prompt_tokens == len(plain(("user", "row 17:"))) and answer.usage.completion_tokens == 30
    assert chat(temperature=0, max_completion_tokens=openai.omit, max_tokens=30).choices[0].message.content == expected
    assert [c.message.content for c in chat(temperature=0, n=2).choices] == [expected] * 2
    stopped = chat(temperature=0, stop=expected[5:8]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (expected[:expected.index(expected[5:8])], "stop")


def test_conversation(client, model):
    """The package's own message goes back in as it came, texts in parts, OpenAI's newer name of a system message."""
    parts = [{"type": "text", "text": "row"}, {"type": "text", "text": " 8"}]
    messages = [{"role": "developer", "content": "Count."}, {"role": "user", "content": parts}]
    options = dict(model="run", temperature=0, max_completion_tokens=12)
    first = client.chat.completions.create(messages=messages, **options).choices[0].message
    so_far = ("system", "Count."), ("user", "row 8")
    assert first.content == generated(model, plain(*so_far), max_tokens=12)
    second = client.chat.completions.create(messages=[*messages, first, {"role": "user", "content": "row 9"}], **options).choices[0].message
    assert second.content == generated(model, plain(*so_far, ("assistant", first.content), ("user", "row 9")), max_tokens=12)


def test_chat_logprobs(chat, model):
    choice = chat(temperature=0, logprobs=True, top_logprobs=4).choices[0]
    prompt = plain(("user", "row 17:"))
    expected = log_softmax(model.logits(prompt + choice.message.content))[len(prompt) - 1:]
    assert bytes(b for t in choice.logprobs.content for b in t.bytes).decode() == choice.message.content
    for row, token in zip(expected, choice.logprobs.content):
        assert token.logprob == pytest.approx(row[token.bytes[0]], abs=NEAR) and token.token.encode() == bytes(token.bytes)
        assert [t.logprob for t in token.top_logprobs] == pytest.approx(np.sort(row)[:-5:-1], abs=NEAR)
        assert (token.top_logprobs[0].token, token.top_logprobs[0].logprob) == (token.token, token.logprob)  # greedy


def test_chat_stream(chat):
    options = dict(temperature=0, logprobs=True, top_logprobs=2)
    whole, chunks = chat(**options).choices[0], list(chat(**options, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0] for chunk in chunks[:-1]]
    assert deltas[0].delta.role == "assistant" and deltas[-1].finish_reason == whole.finish_reason
    assert "".join(d.delta.content or "" for d in deltas) == whole.message.content
    tokens = [t for d in deltas if d.logprobs for t in d.logprobs.content]
    assert [t.token for t in tokens] == [t.token for t in whole.logprobs.content] and all(len(t.top_logprobs) == 2 for t in tokens)
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 30


def test_chat_stream_helper(client, chat):
    """The package's helper puts a stream together by itself. (It raises an error of its own where an answer ends by its length.)"""
    stop = chat(temperature=0).choices[0].message.content[10:13]
    options = dict(model="run", messages=[{"role": "user", "content": "row 17:"}], temperature=0, stop=stop)
    with client.chat.completions.stream(**options, stream_options={"include_usage": True}) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "".join(pieces) == client.chat.completions.create(**options).choices[0].message.content
    assert final.choices[0].finish_reason == "stop" and final.usage.prompt_tokens == 24


# --- the rest of the interface ---


def test_models(client):
    listed = client.models.list().data
    assert [m.id for m in listed] == ["run"] and listed[0].max_model_len == 1024
    one = client.models.retrieve("run")
    assert one == listed[0] and one.object == "model" and one.owned_by == "fathom"


def test_shapes_are_the_published_ones(client):
    """The package takes what it is given; here its types check it."""
    ask = dict(model="run", max_tokens=4)
    messages = [{"role": "user", "content": "row"}]
    Model.model_validate_json(client.models.with_raw_response.retrieve("run").text)
    Completion.model_validate_json(client.completions.with_raw_response.create(prompt="row", logprobs=2, **ask).text)
    chat = client.chat.completions.with_raw_response
    ChatCompletion.model_validate_json(chat.create(messages=messages, logprobs=True, top_logprobs=2, **ask).text)
    ChatCompletion.model_validate_json(chat.create(messages=messages, **ask).text)
    lines = chat.create(messages=messages, logprobs=True, stream=True, stream_options={"include_usage": True}, **ask).http_response.read().decode()
    events = [line.removeprefix("data: ") for line in lines.splitlines() if line]
    assert events.pop() == "[DONE]" and len(events) > 5
    for event in events:
        ChatCompletionChunk.model_validate_json(event)


@pytest.mark.parametrize("options, field", [
    (dict(temperature=3), "temperature"), (dict(n=0), "n"), (dict(max_tokens=0), "max_tokens"), (dict(logprobs=21), "logprobs"),
    (dict(prompt=[]), "prompt"), (dict(prompt=[256]), "prompt"), (dict(logit_bias={"256": 1}), "logit_bias"), (dict(stop=""), "stop"),
    (dict(top_p="a"), "top_p"),
    (dict(suffix="x"), "suffix"), (dict(best_of=3), "best_of")])
def test_bad_requests(options, field, complete):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(**options)
    assert (caught.value.param, caught.value.type) == (field, "invalid_request_error") and field in caught.value.message


def test_refusals(client, complete, chat):
    with pytest.raises(openai.BadRequestError) as caught:
        complete("a" * 1025)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="top_logprobs"):
        chat(top_logprobs=2)
    with pytest.raises(openai.BadRequestError, match="tools"):
        chat(tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="run", messages=[])
    for call in (lambda: client.completions.create(model="gpt-9", prompt="a"), lambda: client.models.retrieve("gpt-9"),
                 lambda: client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "a"}])):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="run", input="a")
    with pytest.raises(openai.BadRequestError):
        complete(temperature=9, stream=True)


def test_key(run):
    with serving(run, "--api-key", "secret", "--model-name", "small") as address:
        for key in "none", "secrets":
            with openai.OpenAI(base_url=f"{address}/v1", api_key=key) as client, pytest.raises(openai.AuthenticationError):
                client.completions.create(model="small", prompt="a")
        with openai.OpenAI(base_url=f"{address}/v1", api_key="secret") as client:
            assert client.completions.create(model="small", prompt="a", max_tokens=2).model == "small"


def test_a_full_queue(run):
    with (serving(run, "--max-active", 1, "--max-queue", 3) as address,
          openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client):
        long = dict(model="run", prompt="a", max_tokens=900, logit_bias=Q)
        stream = client.completions.create(**long, n=4, stream=True)
        next(stream)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(**long)
        assert caught.value.code == "queue_full" and int(caught.value.response.headers["Retry-After"]) >= 1
        stream.close()
        patient = client.with_options(max_retries=5)  # the package's own way with 429
        assert patient.completions.create(**{**long, "max_tokens": 2}).choices[0].text == "QQ"


def test_many_at_once(run, model):
    """32 clients, each with a prompt of its own, read their streams side by side: what each gets is what it gets alone."""
    prompts = [f"row {i * 37}: " + "and " * (i % 5) for i in range(32)]
    options = dict(model="run", max_tokens=120, temperature=0)

    async def ask(client, i):
        if i % 2:
            stream = await client.completions.create(prompt=prompts[i], stream=True, **options)
            return "".join([c.choices[0].text async for c in stream])
        messages = [{"role": "user", "content": prompts[i]}]
        stream = await client.chat.completions.create(messages=messages, stream=True, **options)
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    async def everyone(address):
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            together = await asyncio.gather(*(ask(client, i) for i in range(32)))
            return together, [await ask(client, i) for i in range(32)]

    for limits in [], ["--kv-memory", 1, "--max-active", 12]:  # the second has too little memory for all, and gives pages up
        with serving(run, *limits) as address:
            together, alone = asyncio.run(everyone(address))
        assert together == alone
        assert alone[1::2] == [generated(model, p, max_tokens=120) for p in prompts[1::2]]
