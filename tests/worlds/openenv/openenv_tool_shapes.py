"""Environments whose actions are tool calls: a real MCPEnvironment, and one like Agent World Model."""

from __future__ import annotations

from typing import Any

from fastmcp import FastMCP
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, ListToolsObservation, Tool
from openenv.core.env_server.types import Observation, State
from openenv_shapes import Shape


class Echo(MCPEnvironment):
    """A real MCPEnvironment with FastMCP tools."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        tools = FastMCP("echo_env")

        @tools.tool
        def echo_message(message: str) -> str:
            """Say it again."""
            return message

        @tools.tool
        def echo_with_length(message: str) -> dict:
            """Say it again, with its length."""
            return {"message": message, "length": len(message)}

        @tools.tool
        def break_down(reason: str = "no reason") -> str:
            """Fail."""
            raise ValueError(f"invalid coupon: {reason}")

        super().__init__(tools)
        self._state = State()

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Observation:
        self._state = State(episode_id=episode_id)
        return Observation(reward=0.0, metadata={"status": "ready", "message": "Echo environment ready!"})

    def _step_impl(self, action: Any, timeout_s: float | None = None, **_: Any) -> Observation:
        return Observation(metadata={"error": "unknown action"})

    @property
    def state(self) -> State:
        return self._state


class OwnCallAction(CallToolAction):
    """As some servers do: a subclass, after which the server takes no `list_tools` as an action."""


class ShopObservation(Observation):
    """The fields of Agent World Model's observation that this shop uses; None is left out of the wire."""

    reward_type: str | None = None
    scenario: str | None = None
    task: str | None = None
    task_idx: int | None = None
    num_tools: int | None = None
    tool_name: str | None = None
    tool_result: Any = None
    error: str | None = None
    warning: str | None = None
    verify_result: dict | None = None
    scenarios: list | None = None

    def model_dump(self, **kwargs: Any) -> dict[str, Any]:
        kwargs.setdefault("exclude_none", True)
        return super().model_dump(**kwargs)


class Shop(Shape):
    """Like Agent World Model: tools are known after `reset`, `verify` grades, `done` frees what the episode holds."""

    _tools: tuple[Tool, ...] = ()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        scenario: str | None = None,
        task_idx: int | None = None,
        **_: Any,
    ) -> ShopObservation:
        self.begin(episode_id)
        if scenario is None or scenario == "closed":
            return ShopObservation(reward_type="reset_error", error=f"scenario {scenario!r} not found")
        schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        self._tools = (Tool(name="find_product", description=f"Find in {scenario}.", input_schema=schema),)
        self._scenario, self._found = scenario, False
        return ShopObservation(
            reward_type="reset_ok", scenario=scenario, task=f"Find product {task_idx} of {scenario}.",
            task_idx=task_idx, num_tools=1, warning="The shop is slow today.",
        )  # fmt: skip

    def step(self, action: Any, timeout_s: float | None = None, **_: Any) -> Observation:
        if action.type == "list_tools":
            return ListToolsObservation(tools=list(self._tools))
        self.note(action.tool_name)
        if action.tool_name == "__list_scenarios__":
            shops = [{"name": f"shop_{n}", "num_tasks": n % 2 + 1, "tasks": []} for n in range(20)]
            return ShopObservation(reward_type="tool_call_ok", scenarios=shops)
        if action.tool_name == "verify":
            answered = action.arguments.get("final_answer")
            if self._scenario == "shop_4":
                return ShopObservation(reward_type="no_verifier", error="No code verifier available", reward=0.0)
            complete = self._found and answered == "lamp"
            result = {"result": "complete" if complete else "others", "final_answer": answered}
            reward = 1.0 if complete else 0.1
            return ShopObservation(reward_type="complete", verify_result=result, reward=reward)
        if action.tool_name == "done":
            return ShopObservation(reward_type="episode_done", done=True, reward=0.0)
        return self._call(action)

    def _call(self, action: Any) -> ShopObservation:
        name = action.tool_name
        if name != "find_product":
            return ShopObservation(reward_type="tool_not_found", tool_name=name, error="Unknown tool", reward=-1.0)
        asked = action.arguments.get("name")
        if asked == "crash":
            return ShopObservation(reward_type="server_error", tool_name=name, error="subprocess died", reward=0.0)
        if asked != "lamp":
            told = f"invalid name {asked!r}"
            return ShopObservation(reward_type="invalid_args", tool_name=name, error=told, reward=-1.0)
        self._found = True
        result = {"content": [{"type": "text", "text": '{"price": 12}'}], "is_error": False}
        return ShopObservation(reward_type="tool_call_ok", tool_name=name, tool_result=result, reward=0.0)
