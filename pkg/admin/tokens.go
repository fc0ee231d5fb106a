package admin

import "time"

// What a join token may be used for.
const (
	UsageSigning        = "signing"        // the ConfigMap cluster-info is signed with it
	UsageAuthentication = "authentication" // joining
	UsageRejoin         = "rejoin"         // joining under the name of a node that was another machine
	UsageServer         = "server"         // becoming one more server
)

// TokenUsages are those that an operator can choose from.
func TokenUsages() []string { return []string{UsageSigning, UsageAuthentication, UsageRejoin} }

// Token is a join token without its secret, an entry of the answer to GET /v1/tokens.
type Token struct {
	ID          string    `json:"id"`
	Expires     time.Time `json:"expires,omitzero"` // zero if never
	Usages      []string  `json:"usages"`
	Description string    `json:"description"`
	Server      string    `json:"server,omitempty"` // whose own token it is: in its file, and replaced by rotate there
}

// NewToken is the body of POST /v1/tokens.
type NewToken struct {
	TTL         time.Duration `json:"ttl"` // 0 for a token that never expires
	Usages      []string      `json:"usages"`
	Description string        `json:"description"`
}

// WholeToken is a token with its secret, the answer to POST /v1/tokens and POST /v1/tokens/rotate.
type WholeToken struct {
	Whole string `json:"token"` // as a joining machine takes it
	Token
}
