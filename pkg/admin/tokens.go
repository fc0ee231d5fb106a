package admin

import "time"

// What a join token may be used for.
const (
	UsageSigning        = "signing"        // the ConfigMap cluster-info is signed with it
	UsageAuthentication = "authentication" // joining
	UsageRejoin         = "rejoin"         // joining under the name of a node that was another machine
)

// TokenUsages are all of them.
func TokenUsages() []string { return []string{UsageSigning, UsageAuthentication, UsageRejoin} }

// Token is a join token without its secret, an entry of the answer to GET /v1/tokens.
type Token struct {
	ID          string    `json:"id"`
	Expires     time.Time `json:"expires,omitzero"` // zero if never
	Usages      []string  `json:"usages"`
	Description string    `json:"description"`
	Own         bool      `json:"own"` // the server's own, which is in its file and which rotate replaces
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
