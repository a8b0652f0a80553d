package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// queueArg is an argument of a queue's declaration that means something, here or to
// RabbitMQ.
type queueArg struct {
	name  string
	check func(a arg, all []byte) string // what is wrong with it, in RabbitMQ's words; nil: nothing can be
}

// queueArgs are those arguments in the order in which RabbitMQ compares and checks
// them, those that it does not have behind.
var queueArgs = []queueArg{
	{"x-expires", positive},
	{"x-message-ttl", duration},
	{"x-dead-letter-exchange", text},
	{"x-dead-letter-routing-key", checkDeadKey},
	{"x-dead-letter-strategy", oneOf("invalid_dlx_strategy", "at-most-once", "at-least-once")},
	{"x-max-length", natural},
	{"x-max-length-bytes", natural},
	{"x-max-in-memory-length", natural},
	{"x-max-in-memory-bytes", natural},
	{"x-max-priority", checkPriorities},
	{"x-overflow", oneOf("invalid_overflow", "drop-head", "reject-publish", "reject-publish-dlx")},
	{"x-queue-mode", supported("queue mode", "default", "lazy")},
	{"x-queue-version", checkVersion},
	{"x-single-active-consumer", truth},
	{"x-queue-type", supported("queue type", queueClassic, queueQuorum)},
	{"x-quorum-initial-group-size", size},
	{"x-quorum-target-group-size", size},
	{"x-initial-cluster-size", size},
	{"x-queue-leader-locator", oneOf("invalid_queue_locator_arg", leaderLocators...)},
	{"x-delivery-limit", integer},
	{"x-consumer-timeout", duration},
	{"x-consumer-disconnected-timeout", duration},
	{"x-delayed-retry-type", oneOf("invalid_delayed_retry_type", retryTypes...)},
	{"x-delayed-retry-min", duration},
	{"x-delayed-retry-max", duration},
	{"x-message-deduplication", truth},
	{"x-cache-size", natural},
	{"x-cache-ttl", duration},
}

// The kinds of queues. There is one kind: what is called so differs in the limit of
// its deliveries, and in what it may not be declared as.
const (
	queueClassic = "classic"
	queueQuorum  = "quorum"
)

// Values of arguments and of policies.
var (
	leaderLocators = []string{"client-local", "balanced", "random", "least-leaders", "min-masters"}
	retryTypes     = []string{"disabled", "all", "failed", "returned"}
)

func (a arg) unacceptable() string { return "{unacceptable_type," + a.typeName() + "}" }

func text(a arg, _ []byte) string {
	if a.kind != 'S' {
		return a.unacceptable()
	}
	return ""
}

func truth(a arg, _ []byte) string {
	if a.kind != 't' {
		return a.unacceptable()
	}
	return ""
}

// oneOf checks a text that must be one of values; otherwise it is called wrong.
func oneOf(wrong string, values ...string) func(a arg, all []byte) string {
	return func(a arg, all []byte) string {
		if s := text(a, all); s != "" || slices.Contains(values, a.String()) {
			return s
		}
		return wrong
	}
}

// supported checks a text that must be one of values, as RabbitMQ does where its
// answer is a sentence.
func supported(what string, values ...string) func(a arg, all []byte) string {
	return func(a arg, all []byte) string {
		if s := text(a, all); s != "" || slices.Contains(values, a.String()) {
			return s
		}
		return strconv.Quote("unsupported " + what + " '" + a.String() + "'")
	}
}

func integer(a arg, _ []byte) string {
	if _, ok := a.decoded().(int64); !ok {
		return strconv.Quote("expected integer, got " + a.typeName())
	}
	return ""
}

func natural(a arg, all []byte) string {
	if s := integer(a, all); s != "" {
		return s
	}
	if n := a.decoded().(int64); n < 0 {
		return fmt.Sprintf("{value_negative,%d}", n)
	}
	return ""
}

func size(a arg, all []byte) string {
	if s := natural(a, all); s != "" {
		return s
	}
	if a.decoded().(int64) == 0 {
		return "{value_zero,0}"
	}
	return ""
}

// maxDuration is ten years, as in RabbitMQ, ms.
const maxDuration = 10 * 365 * 24 * 60 * 60 * 1000

func duration(a arg, all []byte) string {
	if s := natural(a, all); s != "" {
		return s
	}
	if n := a.decoded().(int64); n > maxDuration {
		return fmt.Sprintf("{value_too_large,%d}", n)
	}
	return ""
}

func positive(a arg, all []byte) string {
	if s := duration(a, all); s != "" {
		return s
	}
	if a.decoded().(int64) == 0 {
		return "{value_zero,0}"
	}
	return ""
}

func checkDeadKey(a arg, all []byte) string {
	if s := text(a, all); s != "" {
		return s
	}
	if _, ok := findArg(all, "x-dead-letter-exchange"); !ok {
		return "routing_key_but_no_dlx_defined"
	}
	return ""
}

// prioritiesMax is the highest priority that a queue may have, as in RabbitMQ.
const prioritiesMax = 255

func checkPriorities(a arg, all []byte) string {
	if s := natural(a, all); s != "" {
		return s
	}
	if n := a.decoded().(int64); n > prioritiesMax {
		return fmt.Sprintf("{max_value_exceeded,%d}", n)
	}
	return ""
}

func checkVersion(a arg, all []byte) string {
	if s := natural(a, all); s != "" {
		return s
	}
	if n := a.decoded().(int64); n != 1 && n != 2 {
		return strconv.Quote(fmt.Sprintf("unsupported queue version '%d'", n))
	}
	return ""
}

func checkQueueArgs(vhost, queue string, args []byte) *Error {
	if len(args) == 0 {
		return nil
	}
	if err := checkArgs(aQueue, queue, vhost, args); err != nil {
		return err
	}
	for _, q := range queueArgs {
		a, ok := findArg(args, q.name)
		if !ok || q.check == nil {
			continue
		}
		s := q.check(a, args)
		switch {
		case s == "":
		case q.name == "x-dead-letter-exchange":
			return errorf(PreconditionFailed, "invalid type '%s' for arg '%s' in queue '%s' in vhost '%s'", a.typeName(), q.name, queue, vhost)
		default:
			return errorf(PreconditionFailed, "invalid arg '%s' for queue '%s' in vhost '%s': %s", q.name, queue, vhost, s)
		}
	}
	return nil
}

// checkKind refuses what a queue of this kind may not be, as RabbitMQ does.
func (spec *QueueSpec) checkKind(vhost string) error {
	if spec.kind() != queueQuorum {
		return nil
	}
	property := ""
	switch {
	case spec.AutoDelete:
		property = "auto-delete"
	case spec.Exclusive:
		property = "exclusive-owner"
	case !spec.Durable:
		property = "non-durable"
	default:
		return nil
	}
	return errorf(PreconditionFailed, "invalid property '%s' for queue '%s' in vhost '%s'", property, spec.Name, vhost)
}

// kind is the kind of queue that is declared, or empty.
func (spec *QueueSpec) kind() string {
	if a, ok := findArg(spec.Args, "x-queue-type"); ok {
		return a.String()
	}
	return ""
}

// policyKey is the key of policies that stands for an argument; empty: none does. An
// argument that is called as the key itself means nothing: it was not checked.
func policyKey(argument string) string {
	switch argument {
	case "x-max-priority", "x-single-active-consumer", "x-queue-type", "x-quorum-initial-group-size":
		return ""
	case "x-quorum-target-group-size":
		return "target-group-size"
	}
	key, ok := strings.CutPrefix(argument, "x-")
	if !ok {
		return ""
	}
	return key
}
