"""A gRPC server and client on gRPC's own C core, without generated code: messages are raw bytes.

  grpc_echo.py serve PORT
  grpc_echo.py call ADDRESS unary|server_stream|client_stream|bidi|deadline|cancel|error|big
"""

import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "leno.test.Echo"
ended = {"cancelled": 0}
lock = threading.Lock()


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-echo", metadata.get("x-echo", "")), ("x-bytes-bin", b"\x00\xff")))
    return request


def server_stream(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def client_stream(requests, context):
    return str(sum(len(r) for r in requests)).encode()


def bidi(requests, context):
    for request in requests:
        yield request


def wait(request, context):
    # Says whether the deadline was passed on, then waits until it is cancelled.
    gone = threading.Event()
    context.add_callback(gone.set)
    remaining = context.time_remaining()
    yield f"{remaining is not None and remaining < 60}".encode()
    gone.wait(30)
    with lock:
        ended["cancelled"] += 1


def cancelled(request, context):
    with lock:
        return str(ended["cancelled"]).encode()


def error(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: ü 100%")


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=(("grpc.max_receive_message_length", -1),))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        "Wait": grpc.unary_stream_rpc_method_handler(wait),
        "Cancelled": grpc.unary_unary_rpc_method_handler(cancelled),
        "Error": grpc.unary_unary_rpc_method_handler(error),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def call(address, what):
    channel = grpc.insecure_channel(address, options=(("grpc.max_receive_message_length", -1), ("grpc.default_authority", "echo"), ("grpc.enable_http_proxy", 0)))
    path = f"/{SERVICE}/"
    if what == "unary":
        method = channel.unary_unary(path + "Unary")
        answer, info = method.with_call(b"hello", metadata=(("x-echo", "you"),), timeout=20)
        trailers = dict(info.trailing_metadata())
        assert answer == b"hello" and trailers["x-echo"] == "you" and trailers["x-bytes-bin"] == b"\x00\xff", trailers
    elif what == "big":
        body = bytes(5_000_000)
        assert channel.unary_unary(path + "Unary")(body, timeout=30) == body
    elif what == "server_stream":
        got = list(channel.unary_stream(path + "ServerStream")(b"1000", timeout=20))
        assert got == [str(n).encode() for n in range(1000)], len(got)
    elif what == "client_stream":
        assert channel.stream_unary(path + "ClientStream")(iter([b"x" * 1000] * 1000), timeout=20) == b"1000000"
    elif what == "bidi":
        # One message is sent only when the answer to the one before has come: both directions must be live at once.
        answered = threading.Semaphore(1)

        def requests():
            for number in range(100):
                assert answered.acquire(timeout=20)
                yield str(number).encode()

        got = []
        for answer in channel.stream_stream(path + "Bidi")(requests(), timeout=20):
            got.append(answer)
            answered.release()
        assert len(got) == 100, len(got)
    elif what == "deadline":
        stream = channel.unary_stream(path + "Wait")(b"", timeout=1)
        assert next(stream) == b"True", "the deadline was not passed on"
        try:
            next(stream)
            raise AssertionError("the deadline passed unseen")
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.DEADLINE_EXCEEDED, e
    elif what == "cancel":
        count = channel.unary_unary(path + "Cancelled")
        before = int(count(b"", timeout=20))
        stream = channel.unary_stream(path + "Wait")(b"")
        next(stream)
        stream.cancel()
        limit = time.monotonic() + 20
        while int(count(b"", timeout=20)) == before:
            assert time.monotonic() < limit, "the cancellation did not reach the server"
            time.sleep(0.02)
    elif what == "error":
        try:
            channel.unary_unary(path + "Error")(b"", timeout=20)
            raise AssertionError("no error")
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.FAILED_PRECONDITION and e.details() == "not today: ü 100%", e
    else:
        raise SystemExit(f"unknown call {what}")
    print(f"{what} ok")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        call(sys.argv[2], sys.argv[3])
