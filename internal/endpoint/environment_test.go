package endpoint

import "testing"

func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		env       map[string]string
		url, from string
	}{
		{nil, "amqp://guest:guest@localhost:5672/", ""},
		{map[string]string{"FERRY_URL": "amqp://a", "AMQP_URL": "amqp://b", "RABBITMQ_URL": "amqp://c", "RABBIT_HOST": "d"}, "amqp://a", "FERRY_URL"},
		{map[string]string{"FERRY_URL": "", "AMQP_URL": "amqp://b", "RABBITMQ_URL": "amqp://c"}, "amqp://b", "AMQP_URL"},
		{map[string]string{"RABBITMQ_URL": "amqp://c", "RABBIT_HOST": "d"}, "amqp://c", "RABBITMQ_URL"},
		{
			map[string]string{"RABBIT_HOST": "rabbit-1", "RABBIT_PORT": "5673", "RABBIT_USERNAME": "me@home", "RABBIT_PASSWORD": "a,b/c?d#e@f%g h+i"},
			"amqp://me%40home:a%2Cb%2Fc%3Fd%23e%40f%25g%20h%2Bi@rabbit-1:5673/", "RABBIT_HOST, RABBIT_PORT, RABBIT_USERNAME, RABBIT_PASSWORD",
		},
		{map[string]string{"RABBIT_HOST": "::1"}, "amqp://guest:guest@[::1]:5672/", "RABBIT_HOST"},
		{map[string]string{"RABBIT_HOST": "[fe80::1%en0]"}, "amqp://guest:guest@[fe80::1%25en0]:5672/", "RABBIT_HOST"},
		{map[string]string{"RABBIT_PORT": "tcp://10.0.0.7:5674"}, "amqp://guest:guest@localhost:5674/", "RABBIT_PORT"},
	} {
		url, from := FromEnvironment(func(name string) string { return c.env[name] })
		if url != c.url || from != c.from {
			t.Errorf("%v gives %s from %q, want %s from %q", c.env, url, from, c.url, c.from)
		}
		if _, err := Parse(url); err != nil {
			t.Errorf("%v: %v", c.env, err)
		}
	}
}

func TestEnvironmentEscapesWhatItComposes(t *testing.T) {
	const password = "p:a,s/s?w#o@r%d +"
	env := map[string]string{"RABBIT_USERNAME": "u:,/?#@% +", "RABBIT_PASSWORD": password}
	url, _ := FromEnvironment(func(name string) string { return env[name] })
	l, err := Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	if e := l.Endpoints[0]; e.Password != password || e.User != env["RABBIT_USERNAME"] {
		t.Errorf("%s: user %q, password %q", url, e.User, e.Password)
	}
	// What is no host or port is a fault, and not another URL.
	for _, env := range []map[string]string{{"RABBIT_HOST": "a:1"}, {"RABBIT_HOST": "a/b"}, {"RABBIT_PORT": "1/v"}} {
		url, _ := FromEnvironment(func(name string) string { return env[name] })
		if l, err := Parse(url); err == nil {
			t.Errorf("%v is taken for %v", env, l)
		}
	}
}
