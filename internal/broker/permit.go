package broker

// Where a name is not one of a queue or an exchange alone, RabbitMQ tells which.
const (
	aQueue     = "queue"
	anExchange = "exchange"
)

// defaultExchange is the name by which permissions speak of the default exchange.
const defaultExchange = "amq.default"

// may checks that the session's user has a permission: nil, or AccessRefused in
// RabbitMQ's words. No lock is held.
func (s *Session) may(p Permission, what, name string) error {
	if s.cfg.Access == nil {
		return nil
	}
	if what == anExchange && name == "" {
		name = defaultExchange
	}
	if s.cfg.Access.May(p, name) {
		return nil
	}
	return errorf(AccessRefused, "access to %s '%s' in vhost '%s' refused for user '%s'", what, name, s.v.name, s.cfg.User)
}

func (s *Session) mayTopic(p Permission, exchange, key string) error {
	if s.cfg.Access.MayTopic(p, exchange, key) {
		return nil
	}
	return errorf(AccessRefused, "access to topic '%s' in exchange '%s' in vhost '%s' refused for user '%s'", key, exchange, s.v.name, s.cfg.User)
}

// mayDeclareQueue checks what a declaration of a queue needs. more is what it needs
// beside that if the queue is not there yet: who lets it send dead letters to an
// exchange publishes there, and reads them from the queue.
func (s *Session) mayDeclareQueue(spec *QueueSpec) (err, more error) {
	if s.cfg.Access == nil {
		return nil, nil
	}
	if err := s.may(Configure, aQueue, spec.Name); err != nil {
		return err, nil
	}
	to, ok := findArg(spec.Args, "x-dead-letter-exchange")
	if !ok || to.kind != 'S' {
		return nil, nil
	}
	if more = s.may(Read, aQueue, spec.Name); more == nil {
		more = s.may(Write, anExchange, to.String())
	}
	return nil, more
}

// mayDeclareExchange is that of an exchange, and of its alternate.
func (s *Session) mayDeclareExchange(spec *ExchangeSpec) (err, more error) {
	if s.cfg.Access == nil {
		return nil, nil
	}
	if err := s.may(Configure, anExchange, spec.Name); err != nil {
		return err, nil
	}
	to, ok := findArg(spec.Args, "alternate-exchange")
	if !ok || to.kind != 'S' {
		return nil, nil
	}
	if more = s.may(Read, anExchange, spec.Name); more == nil {
		more = s.may(Write, anExchange, to.String())
	}
	return nil, more
}

// mayBind checks what binding and unbinding need: that one may write to the
// destination, and read what the source sends there.
func (s *Session) mayBind(what, destination, source, key string) error {
	if err := s.may(Write, what, destination); err != nil {
		return err
	}
	if source == "" || what == anExchange && destination == "" {
		return errDefaultExchange()
	}
	if err := s.may(Read, anExchange, source); err != nil || s.cfg.Access == nil {
		return err
	}
	if s.v.isTopic(source) {
		return s.mayTopic(Read, source, key)
	}
	return nil
}

func (v *VHost) isTopic(name string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	x := v.exchanges[name]
	return x != nil && x.typ == topic
}

// mayPublish checks that a message may be published where it is meant to go, by each
// of its keys. Its answer is remembered with the route; of those routes that are
// not remembered, that one may write to the exchange is, which is all for those of
// most types. version is that of the routes when the asking began.
func (p *publisher) mayPublish(m *Publish, version uint64, special bool) error {
	if p.s.cfg.Access == nil || p.mayVersion == version && p.mayAll && string(p.mayName) == string(m.Exchange) {
		return nil
	}
	s, name := p.s, string(m.Exchange)
	if err := s.may(Write, anExchange, name); err != nil {
		return err
	}
	p.mayVersion, p.mayName, p.mayAll = version, append(p.mayName[:0], name...), true
	if name == "" || !s.v.isTopic(name) {
		return nil
	}
	p.mayAll = false
	err := s.mayTopic(Write, name, string(m.Key))
	if special {
		ccKeys(m.Properties, func(key []byte) {
			if err == nil {
				err = s.mayTopic(Write, name, string(key))
			}
		})
	}
	return err
}
