package endpoint

import "strings"

// defaultURL is used where the environment says nothing.
const defaultURL = "amqp://guest:guest@localhost:5672/"

// FromEnvironment is the URL that the environment gives, and the name of the
// variable or variables that it is from: FERRY_URL, else AMQP_URL, else
// RABBITMQ_URL, else it is composed of RABBIT_HOST, RABBIT_PORT,
// RABBIT_USERNAME and RABBIT_PASSWORD if any of these is set, else it is the
// default URL and from is empty. A variable that is empty counts as not set.
// What is returned is for [Parse]; it holds the password.
func FromEnvironment(getenv func(string) string) (url string, from string) {
	for _, name := range []string{"FERRY_URL", "AMQP_URL", "RABBITMQ_URL"} {
		if value := getenv(name); value != "" {
			return value, name
		}
	}
	var set []string
	get := func(name, absent string) string {
		value := getenv(name)
		if value == "" {
			return absent
		}
		set = append(set, name)
		return value
	}
	host := get("RABBIT_HOST", defaultHost)
	port := get("RABBIT_PORT", "5672")
	user := get("RABBIT_USERNAME", defaultUser)
	password := get("RABBIT_PASSWORD", defaultPassword)
	if len(set) == 0 {
		return defaultURL, ""
	}
	// Kubernetes gives each container RABBIT_PORT=tcp://ADDRESS:PORT where a
	// service is called rabbit.
	if strings.HasPrefix(port, "tcp://") {
		port = port[strings.LastIndexByte(port, ':')+1:]
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.Count(host, ":") > 1 {
		host = "[" + strings.ReplaceAll(host, "%", "%25") + "]"
	} else {
		host = escape(host)
	}
	return "amqp://" + escape(user) + ":" + escape(password) + "@" + host + ":" + escape(port) + "/", strings.Join(set, ", ")
}
