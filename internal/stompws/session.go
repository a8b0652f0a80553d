package stompws

import (
	"context"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/ferrymq/ferry/internal/pipenet"
)

// closeTimeout is how long a peer may take for what was written to it before the
// server closed the connection. The closing handshake has as much again.
const closeTimeout = 5 * time.Second

// chunk is how much is taken out of a stream at once, bytes.
const chunk = 4 << 10

// A session moves what comes by a WebSocket to the far end of a pipe, and back. In
// each direction one goroutine does so; the pipe holds back who is too fast.
type session struct {
	ws       *websocket.Conn
	far      *pipenet.Conn
	patience time.Duration   // closeTimeout
	ctx      context.Context //nolint:containedctx // the session's life: reading and writing end with it
	cancel   context.CancelFunc

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	ended bool
}

// run returns when both directions have ended and the WebSocket is closed.
func (s *session) run() {
	var receiving sync.WaitGroup
	receiving.Go(s.receive)
	s.send()
	_ = s.far.Close() // nobody reads any more what is received
	// 1000: a normal closure (RFC 6455 §7.4.1); why is what the last frame says.
	_ = s.ws.Close(websocket.StatusNormalClosure, "")
	receiving.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// leave is called when the server's end was closed.
func (s *session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.timer = time.AfterFunc(s.patience, s.cancel)
	}
}

// receive passes on what messages hold, whatever they are and wherever they end,
// until the peer says good-bye, makes a mistake, or is gone.
func (s *session) receive() {
	defer func() { _ = s.far.CloseWrite() }()
	buf := make([]byte, chunk)
	for {
		_, r, err := s.ws.Reader(s.ctx)
		if err != nil {
			return
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{s.far}, struct{ io.Reader }{r}, buf); err != nil {
			return
		}
	}
}

// send cuts what the server says into messages, until it has said everything.
func (s *session) send() {
	var cut cutter
	buf := make([]byte, chunk)
	for {
		n, err := s.far.Read(buf)
		for in := buf[:n]; len(in) > 0; {
			var message []byte
			if message, in = cut.next(in); message != nil && s.write(message) != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (s *session) write(message []byte) error {
	typ := websocket.MessageBinary
	if utf8.Valid(message) {
		typ = websocket.MessageText
	}
	return s.ws.Write(s.ctx, typ, message)
}
