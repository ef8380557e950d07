// Calls a server of grpc-go through a proxy: the cases of gRPC's own interoperability tests that don't need credentials, and some
// with many calls at a time. Arguments: the program, and a directory with cert.pem and key.pem.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	pb "google.golang.org/grpc/test/grpc_testing"
)

const (
	initialKey  = "x-initial"
	trailingKey = "x-trailing-bin"
	message     = "a message \t\r\n of a status: ä, 100%"
	caseLimit   = 30 * time.Second
)

const configuration = `workers = 2
state_dir = "%[1]s/state"
[listen.plain]
bind = "127.0.0.1:0"
[listen.https]
bind = "127.0.0.1:0"
[[listen.https.cert]]
cert = "%[1]s/cert.pem"
key = "%[1]s/key.pem"
[service.calls]
stable = "v1"
[service.calls.versions]
v1 = ["h2c://%[2]s"]
`

// The server. A message asks for the sizes of the messages that answer it.
type testServer struct {
	pb.UnimplementedTestServiceServer
	broken counter
}

// Calls whose client has gone before their end.
type counter struct{ n int64 }

func (c *counter) add()       { atomic.AddInt64(&c.n, 1) }
func (c *counter) now() int64 { return atomic.LoadInt64(&c.n) }

func payload(size int32) *pb.Payload {
	return &pb.Payload{Body: bytes.Repeat([]byte{7}, int(size))}
}

func echoMetadata(ctx context.Context) {
	received, _ := metadata.FromIncomingContext(ctx)
	if values := received.Get(initialKey); len(values) > 0 {
		grpc.SendHeader(ctx, metadata.Pairs(initialKey, values[0]))
	}
	if values := received.Get(trailingKey); len(values) > 0 {
		grpc.SetTrailer(ctx, metadata.Pairs(trailingKey, values[0]))
	}
}

func (s *testServer) EmptyCall(_ context.Context, in *pb.Empty) (*pb.Empty, error) {
	return in, nil
}

func (s *testServer) UnaryCall(ctx context.Context, in *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	echoMetadata(ctx)
	if in.FillUsername {
		return nil, status.Error(codes.Unknown, message)
	}
	return &pb.SimpleResponse{Payload: payload(in.ResponseSize)}, nil
}

func (s *testServer) StreamingOutputCall(in *pb.StreamingOutputCallRequest, stream pb.TestService_StreamingOutputCallServer) error {
	for _, asked := range in.ResponseParameters {
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: payload(asked.Size)}); err != nil {
			return err
		}
	}
	return nil
}

func (s *testServer) StreamingInputCall(stream pb.TestService_StreamingInputCallServer) error {
	var size int32
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: size})
		}
		if err != nil {
			s.broken.add()
			return err
		}
		size += int32(len(in.Payload.Body))
	}
}

func (s *testServer) FullDuplexCall(stream pb.TestService_FullDuplexCallServer) error {
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			s.broken.add()
			return err
		}
		for _, asked := range in.ResponseParameters {
			if asked.Size < 0 {
				return status.Error(codes.Code(-asked.Size), message)
			}
			time.Sleep(time.Duration(asked.IntervalUs) * time.Microsecond)
			if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: payload(asked.Size)}); err != nil {
				return err
			}
		}
	}
}

// Starts the proxy and returns it with the addresses of its two listeners.
func startProxy(program, dir, server string) (*exec.Cmd, string, string, error) {
	file := filepath.Join(dir, "cutover.toml")
	if err := os.WriteFile(file, []byte(fmt.Sprintf(configuration, dir, server)), 0600); err != nil {
		return nil, "", "", err
	}
	proxy := exec.Command(program, "run", "-c", file)
	log, err := proxy.StderrPipe()
	if err != nil {
		return nil, "", "", err
	}
	if err := proxy.Start(); err != nil {
		return nil, "", "", err
	}
	listeners := regexp.MustCompile(`listeners=".*plain=([0-9.:]+).*https=([0-9.:]+)`)
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		fmt.Println(lines.Text())
		if found := listeners.FindStringSubmatch(lines.Text()); found != nil {
			go io.Copy(os.Stdout, log)
			return proxy, found[1], found[2], nil
		}
	}
	return proxy, "", "", fmt.Errorf("the proxy named no listeners")
}

type testCase struct {
	name string
	run  func(*testServer, *grpc.ClientConn) error
}

func expect(ok bool, format string, values ...interface{}) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, values...)
}

func expectCode(code codes.Code, err error) error {
	return expect(status.Code(err) == code, "expected %v, not %v", code, err)
}

func expectEnd(err error) error {
	return expect(err == io.EOF, "expected the end, not %v", err)
}

func request(sizes ...int32) *pb.StreamingOutputCallRequest {
	asked := &pb.StreamingOutputCallRequest{}
	for _, size := range sizes {
		asked.ResponseParameters = append(asked.ResponseParameters, &pb.ResponseParameters{Size: size})
	}
	return asked
}

func client(conn *grpc.ClientConn) pb.TestServiceClient { return pb.NewTestServiceClient(conn) }

func duplex(conn *grpc.ClientConn) (pb.TestService_FullDuplexCallClient, error) {
	return client(conn).FullDuplexCall(context.Background())
}

// Waits until the server has seen another call break off.
func untilBroken(server *testServer, before int64) error {
	for start := time.Now(); server.broken.now() == before; time.Sleep(time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			return fmt.Errorf("the server wasn't told that the client had gone")
		}
	}
	return nil
}

var cases = []testCase{
	{"empty_unary", func(_ *testServer, conn *grpc.ClientConn) error {
		_, err := client(conn).EmptyCall(context.Background(), &pb.Empty{})
		return err
	}},
	{"large_unary", func(_ *testServer, conn *grpc.ClientConn) error {
		in := &pb.SimpleRequest{ResponseSize: 314159, Payload: payload(271828)}
		out, err := client(conn).UnaryCall(context.Background(), in)
		if err != nil {
			return err
		}
		return expect(len(out.Payload.Body) == 314159, "%d bytes", len(out.Payload.Body))
	}},
	{"client_streaming", func(_ *testServer, conn *grpc.ClientConn) error {
		stream, err := client(conn).StreamingInputCall(context.Background())
		if err != nil {
			return err
		}
		var sum int32
		for _, size := range []int32{27182, 8, 1828, 45904, 0, 1 << 20} {
			sum += size
			if err := stream.Send(&pb.StreamingInputCallRequest{Payload: payload(size)}); err != nil {
				return err
			}
		}
		out, err := stream.CloseAndRecv()
		if err != nil {
			return err
		}
		return expect(out.AggregatedPayloadSize == sum, "%d bytes", out.AggregatedPayloadSize)
	}},
	{"server_streaming", func(_ *testServer, conn *grpc.ClientConn) error {
		sizes := []int32{31415, 9, 2653, 58979, 0, 1 << 20}
		stream, err := client(conn).StreamingOutputCall(context.Background(), request(sizes...))
		if err != nil {
			return err
		}
		for _, size := range sizes {
			out, err := stream.Recv()
			if err != nil {
				return err
			}
			if len(out.Payload.Body) != int(size) {
				return fmt.Errorf("%d bytes, not %d", len(out.Payload.Body), size)
			}
		}
		_, err = stream.Recv()
		return expectEnd(err)
	}},
	{"ping_pong", func(_ *testServer, conn *grpc.ClientConn) error {
		stream, err := duplex(conn)
		if err != nil {
			return err
		}
		for i := int32(0); i < 1000; i++ {
			size := i * 37 % 5000
			in := request(size)
			in.Payload = payload(size / 2)
			if err := stream.Send(in); err != nil {
				return err
			}
			out, err := stream.Recv()
			if err != nil {
				return err
			}
			if len(out.Payload.Body) != int(size) {
				return fmt.Errorf("%d bytes, not %d", len(out.Payload.Body), size)
			}
		}
		stream.CloseSend()
		_, err = stream.Recv()
		return expectEnd(err)
	}},
	{"empty_stream", func(_ *testServer, conn *grpc.ClientConn) error {
		stream, err := duplex(conn)
		if err != nil {
			return err
		}
		stream.CloseSend()
		_, err = stream.Recv()
		return expectEnd(err)
	}},
	{"timeout_on_sleeping_server", func(_ *testServer, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		stream, err := client(conn).FullDuplexCall(ctx)
		if err != nil {
			return expectCode(codes.DeadlineExceeded, err)
		}
		in := request(5)
		in.ResponseParameters[0].IntervalUs = 2_000_000
		stream.Send(in)
		_, err = stream.Recv()
		return expectCode(codes.DeadlineExceeded, err)
	}},
	{"cancel_after_begin", func(server *testServer, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithCancel(context.Background())
		stream, err := client(conn).StreamingInputCall(ctx)
		if err != nil {
			return err
		}
		cancel()
		_, err = stream.CloseAndRecv()
		return expectCode(codes.Canceled, err)
	}},
	{"cancel_after_first_response", func(server *testServer, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithCancel(context.Background())
		stream, err := client(conn).FullDuplexCall(ctx)
		if err != nil {
			return err
		}
		before := server.broken.now()
		stream.Send(request(31415))
		if _, err = stream.Recv(); err != nil {
			return err
		}
		cancel()
		_, err = stream.Recv()
		if err := expectCode(codes.Canceled, err); err != nil {
			return err
		}
		return untilBroken(server, before)
	}},
	{"status_code_and_message", func(_ *testServer, conn *grpc.ClientConn) error {
		_, err := client(conn).UnaryCall(context.Background(), &pb.SimpleRequest{FillUsername: true})
		if got := status.Convert(err); got.Code() != codes.Unknown || got.Message() != message {
			return fmt.Errorf("%v %q", got.Code(), got.Message())
		}
		stream, err := duplex(conn)
		if err != nil {
			return err
		}
		stream.Send(request(-int32(codes.DataLoss)))
		_, err = stream.Recv()
		return expectCode(codes.DataLoss, err)
	}},
	{"unimplemented_method", func(_ *testServer, conn *grpc.ClientConn) error {
		err := conn.Invoke(context.Background(), "/grpc.testing.TestService/Unknown", &pb.Empty{}, &pb.Empty{})
		if err := expectCode(codes.Unimplemented, err); err != nil {
			return err
		}
		stream, err := client(conn).HalfDuplexCall(context.Background())
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return expectCode(codes.Unimplemented, err)
	}},
	{"unimplemented_service", func(_ *testServer, conn *grpc.ClientConn) error {
		err := conn.Invoke(context.Background(), "/grpc.testing.Nobody/Unknown", &pb.Empty{}, &pb.Empty{})
		return expectCode(codes.Unimplemented, err)
	}},
	{"custom_metadata", func(_ *testServer, conn *grpc.ClientConn) error {
		binary := string([]byte{0xab, 0, 0xff, '\n'})
		ctx := metadata.AppendToOutgoingContext(context.Background(), initialKey, "a value", trailingKey, binary)
		var header, trailer metadata.MD
		_, err := client(conn).UnaryCall(ctx, &pb.SimpleRequest{ResponseSize: 10}, grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil {
			return err
		}
		initial, trailing := header.Get(initialKey), trailer.Get(trailingKey)
		is := func(values []string, value string) bool { return len(values) == 1 && values[0] == value }
		return expect(is(initial, "a value") && is(trailing, binary), "%q %q", initial, trailing)
	}},
	{"concurrent_large_unary", func(_ *testServer, conn *grpc.ClientConn) error {
		const calls = 300
		errors := make(chan error, calls)
		for i := int32(0); i < calls; i++ {
			go func(size int32) {
				in := &pb.SimpleRequest{ResponseSize: size, Payload: payload(200_000 - size)}
				out, err := client(conn).UnaryCall(context.Background(), in)
				if err == nil && len(out.Payload.Body) != int(size) {
					err = fmt.Errorf("%d bytes, not %d", len(out.Payload.Body), size)
				}
				errors <- err
			}(i * 997 % 200_000)
		}
		for i := 0; i < calls; i++ {
			if err := <-errors; err != nil {
				return err
			}
		}
		return nil
	}},
	{"concurrent_cancels", func(_ *testServer, conn *grpc.ClientConn) error {
		var calls sync.WaitGroup
		for i := 0; i < 300; i++ {
			calls.Add(1)
			go func(limit time.Duration) {
				defer calls.Done()
				ctx, cancel := context.WithTimeout(context.Background(), limit)
				defer cancel()
				client(conn).UnaryCall(ctx, &pb.SimpleRequest{ResponseSize: 100_000, Payload: payload(100_000)})
			}(time.Duration(i%20) * time.Millisecond)
		}
		calls.Wait()
		_, err := client(conn).EmptyCall(context.Background(), &pb.Empty{})
		return err
	}},
	{"keepalive_while_idle", func(_ *testServer, conn *grpc.ClientConn) error {
		time.Sleep(11 * time.Second)
		_, err := client(conn).EmptyCall(context.Background(), &pb.Empty{})
		return err
	}},
}

func runCase(test testCase, server *testServer, conn *grpc.ClientConn) error {
	done := make(chan error, 1)
	go func() { done <- test.run(server, conn) }()
	select {
	case err := <-done:
		return err
	case <-time.After(caseLimit):
		return fmt.Errorf("it hasn't ended after %v", caseLimit)
	}
}

func run(program, dir string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &testServer{}
	grpcServer := grpc.NewServer(grpc.MaxConcurrentStreams(100))
	pb.RegisterTestServiceServer(grpcServer, server)
	go grpcServer.Serve(listener)
	proxy, plain, https, err := startProxy(program, dir, listener.Addr().String())
	if proxy != nil && proxy.Process != nil {
		defer proxy.Wait()
		defer proxy.Process.Kill()
	}
	if err != nil {
		return err
	}
	// The certificate is made for the test.
	secure := grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}))
	// The shortest time that the library permits.
	alive := grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second})
	failed, all := 0, 0
	for _, listener := range []struct {
		name, address string
		security      grpc.DialOption
	}{{"plain", plain, grpc.WithInsecure()}, {"https", https, secure}} {
		conn, err := grpc.Dial(listener.address, listener.security, alive)
		if err != nil {
			return err
		}
		for _, test := range cases {
			all++
			outcome := "ok"
			if err := runCase(test, server, conn); err != nil {
				failed++
				outcome = "failed: " + err.Error()
			}
			fmt.Println(listener.name, test.name, outcome)
		}
		conn.Close()
	}
	fmt.Printf("%d of %d cases passed\n", all-failed, all)
	return expect(failed == 0, "%d cases failed", failed)
}

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
