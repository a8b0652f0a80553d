package amqpserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ferrymq/ferry/internal/auth"
	"github.com/ferrymq/ferry/internal/broker"
	"github.com/ferrymq/ferry/internal/wire/amqpwire"
)

// capabilities are those that RabbitMQ announces in connection.start. Client
// libraries switch features on by them.
func capabilities() amqpwire.Table {
	return amqpwire.Table{
		"publisher_confirms":           true,
		"exchange_exchange_bindings":   true,
		"basic.nack":                   true,
		"consumer_cancel_notify":       true,
		"connection.blocked":           true,
		"consumer_priorities":          true,
		"authentication_failure_close": true,
		"per_consumer_qos":             true,
		"direct_reply_to":              true,
	}
}

func (s *Server) properties() amqpwire.Table {
	t := amqpwire.Table{
		"capabilities": capabilities(),
		"cluster_name": s.cfg.ClusterName,
		"copyright":    "Copyright (c) the Ferry authors.",
		"information":  "Licensed under the Apache License, Version 2.0.",
		"platform":     "Go",
		"product":      "Ferry",
		"version":      s.cfg.Version,
	}
	if s.cfg.Node != "" {
		t["node"], t["epoch"] = s.cfg.Node, int64(s.cfg.Epoch)
	}
	return t
}

// peer is what the handshake finds out about the other side.
type peer struct {
	id auth.Identity

	// What the client says it understands (connection.start-ok, capabilities).
	failureClose  bool // connection.close after a failed login
	cancelNotify  bool // basic.cancel from the server
	blockedNotify bool // connection.blocked and unblocked

	// What it tells of itself, for those who look at connections.
	mechanism  string
	properties []byte // header list; nil: it is too large, or cannot be kept

	// What was negotiated (connection.tune-ok).
	frameMax   uint32 // bytes, overhead included
	channelMax uint16
	heartbeat  time.Duration // 0: none
}

// maxProperties is how much of what a client tells of itself is kept, bytes.
const maxProperties = 4 << 10

// errQuiet ends a connection whose peer is told nothing more.
var errQuiet = errors.New("closed without a reply")

// handshake leads the connection from the protocol header to an open session
// (AMQP 0-9-1 §2.2.4). Until then only methods of class connection on channel 0
// are taken, in their order, in frames of at most PreAuthFrameMax. Most mistakes
// are answered by closing the socket, as the specification demands and RabbitMQ
// does; from tune-ok on by connection.close.
func (c *conn) handshake(ctx context.Context) error {
	if err := c.protocolHeader(); err != nil {
		return err
	}
	if err := c.login(ctx); err != nil {
		return err
	}
	if err := c.tune(); err != nil {
		return err
	}
	return c.open()
}

// protocolHeader reads the first eight bytes (§4.2.2). What is not ours is
// answered with the header of what is.
func (c *conn) protocolHeader() error {
	want := amqpwire.ProtocolHeader[:]
	for {
		b := c.nc.In.Buffered()
		n := min(len(b), len(want))
		if !bytes.Equal(b[:n], want[:n]) {
			c.log.Warn("another protocol, or another version", "header", capped(string(b[:n])))
			if err := c.write(want); err != nil {
				return err
			}
			c.nc.Linger(closeTimeout)
			return errQuiet
		}
		if n == len(want) {
			c.nc.In.Discard(n)
			return nil
		}
		if err := c.nc.In.Fill(); err != nil {
			return err
		}
	}
}

// login sends connection.start and checks the credentials of the start-ok.
func (c *conn) login(ctx context.Context) error {
	err := c.writeMethod(0, &amqpwire.ConnectionStart{
		VersionMajor: 0, VersionMinor: 9,
		ServerProperties: c.srv.properties(),
		Mechanisms:       c.mechanisms(),
		Locales:          "en_US",
	})
	if err != nil {
		return err
	}
	m, err := c.expect("starting", amqpwire.MethodConnectionStartOk)
	if err != nil {
		return err
	}
	ok := m.(*amqpwire.ConnectionStartOk)
	c.peer.mechanism = ok.Mechanism
	if list, err := amqpwire.AppendHeadersFromTable(nil, ok.ClientProperties); err == nil && len(list) <= maxProperties {
		c.peer.properties = list
	}
	if caps, is := ok.ClientProperties["capabilities"].(amqpwire.Table); is {
		c.peer.failureClose = caps["authentication_failure_close"] == true
		c.peer.cancelNotify = caps["consumer_cancel_notify"] == true
		c.peer.blockedNotify = caps["connection.blocked"] == true
	}
	if c.srv.cfg.Refuse != "" {
		return nil // there is nothing to log in to
	}
	id, err := c.authenticate(ctx, ok)
	if errors.Is(err, auth.ErrRefused) || errors.Is(err, auth.ErrLoopbackOnly) {
		c.log.Log(ctx, auth.Level(err), "login refused", "mechanism", capped(ok.Mechanism), "error", err)
		if !c.peer.failureClose {
			return errQuiet
		}
		return faultf(amqpwire.AccessRefused, "Login was refused using authentication mechanism %s. "+
			"For details see the broker logfile.", ok.Mechanism)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errQuiet, err)
	}
	c.peer.id = id
	return nil
}

// tune proposes limits and checks what the client makes of them. As in RabbitMQ
// it may only lower them, and 0 ("no limit") is more than any; the heartbeat is
// the client's choice.
func (c *conn) tune() error {
	most := &c.srv.cfg
	err := c.writeMethod(0, &amqpwire.ConnectionTune{
		ChannelMax: most.ChannelMax,
		FrameMax:   most.FrameMax,
		Heartbeat:  uint16(most.Heartbeat / time.Second),
	})
	if err != nil {
		return err
	}
	m, err := c.expect("tuning", amqpwire.MethodConnectionTuneOk)
	if err != nil {
		return err
	}
	ok := m.(*amqpwire.ConnectionTuneOk)
	if err := negotiated("frame_max", ok.FrameMax, amqpwire.MinFrameSize, most.FrameMax); err != nil {
		return err
	}
	if err := negotiated("channel_max", uint32(ok.ChannelMax), 1, uint32(most.ChannelMax)); err != nil {
		return err
	}
	c.peer.frameMax, c.peer.channelMax = ok.FrameMax, ok.ChannelMax
	c.peer.heartbeat = time.Duration(ok.Heartbeat) * time.Second
	return nil
}

func negotiated(field string, value, least, most uint32) error {
	detail, comparison, limit, which := "", "lower", least, "minimum"
	switch {
	case value != 0 && value < least:
	case most != 0 && (value == 0 || value > most):
		comparison, limit, which = "higher", most, "maximum"
		if value == 0 {
			detail = " (no limit)"
		}
	default:
		return nil
	}
	return fmt.Errorf("%w: negotiated %s = %d%s is %s than the %s allowed value (%d)",
		errQuiet, field, value, detail, comparison, which, limit)
}

// open opens the virtual host: the session begins, and everything from here on
// is answered through its outbox.
func (c *conn) open() error {
	m, err := c.expect("opening", amqpwire.MethodConnectionOpen)
	if err != nil {
		return err
	}
	if text := c.srv.cfg.Refuse; text != "" {
		if c.srv.cfg.RefuseNow {
			return faultf(amqpwire.ConnectionForced, "%s", text)
		}
		return faultf(amqpwire.NotImplemented, "%s", text).in(amqpwire.ClassConnection, amqpwire.MethodConnectionOpen)
	}
	vhost := m.(*amqpwire.ConnectionOpen).VirtualHost
	id := c.peer.id
	access, _ := id.Access(vhost)
	session, err := c.srv.cfg.Broker.OpenSession(broker.SessionConfig{
		VHost:           vhost,
		User:            id.Name,
		Access:          access,
		Impersonator:    id.Is(auth.TagImpersonator),
		Peer:            c.nc.PeerPort(),
		Name:            c.nc.Name(),
		Protocol:        "AMQP 0-9-1",
		Client:          c.peer.properties,
		TLS:             c.nc.TLS() != nil,
		Local:           c.nc.LocalPort(),
		Mechanism:       c.peer.mechanism,
		ChannelMax:      c.peer.channelMax,
		FrameMax:        c.peer.frameMax,
		Heartbeat:       c.peer.heartbeat,
		Octets:          c.nc.Octets,
		NotifyBlocked:   c.peer.blockedNotify,
		NotifyCancelled: c.peer.cancelNotify,
	})
	if err != nil {
		if f, ok := asFault(err, amqpwire.ClassConnection, amqpwire.MethodConnectionOpen); ok {
			return f
		}
		return fmt.Errorf("%w: %w", errQuiet, err)
	}
	// Behind it, so that a user who is deleted now has no session that nobody closes.
	if _, ok := id.Access(vhost); !ok {
		session.Close()
		return faultf(amqpwire.NotAllowed, "access to vhost '%s' refused for user '%s'", vhost, id.Name).
			in(amqpwire.ClassConnection, amqpwire.MethodConnectionOpen)
	}
	c.session = session
	c.nc.Authenticated()
	c.log = c.log.With("user", capped(id.Name), "vhost", capped(vhost))
	c.reply(0, &amqpwire.ConnectionOpenOk{})
	return nil
}

// expect reads frames up to a method of class connection, which must be the one
// given. Before the client has logged in nothing is explained to it.
func (c *conn) expect(state string, method uint16) (amqpwire.Method, error) {
	quiet := state != "opening"
	for {
		f, err := readFrame(&c.nc.In, amqpwire.PreAuthFrameMax)
		if err == nil && f.Type == amqpwire.FrameHeartbeat && f.Channel == 0 && len(f.Payload) == 0 {
			continue
		}
		var m amqpwire.Method
		if err == nil {
			m, err = connectionMethod(state, method, f)
		}
		if fa := (*fault)(nil); quiet && errors.As(err, &fa) {
			return nil, fmt.Errorf("%w: %w", errQuiet, fa)
		}
		return m, err
	}
}

func connectionMethod(state string, method uint16, f amqpwire.Frame) (amqpwire.Method, error) {
	cl, me, ok := amqpwire.MethodID(f.Payload)
	switch {
	case f.Type != amqpwire.FrameMethod || f.Channel != 0:
		return nil, unexpectedFrame(f.Type, f.Payload)
	case !ok:
		return nil, badFrame(f.Type, f.Payload, unknownFrame)
	case cl != amqpwire.ClassConnection || me != method:
		return nil, faultf(amqpwire.ChannelError, "unexpected method in connection state %s", state).in(cl, me)
	}
	return parseMethod(f.Payload)
}
