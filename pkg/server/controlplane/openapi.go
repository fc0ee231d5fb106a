package controlplane

import (
	"fmt"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/cached"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// serveOpenAPIV2WhenAsked adds /openapi/v2 of the built-in resources to the API server, made at the first request.
// Upstream makes it at every start: half a second, and memory that is kept, for a document that today's clients, which
// read version 3, hardly ask for. The aggregator in front merges this one when it is asked in turn.
func serveOpenAPIV2WhenAsked(aggregator *genericapiserver.GenericAPIServer, conf *common.Config) error {
	server, ok := aggregator.NextDelegate().(*genericapiserver.GenericAPIServer)
	if !ok {
		return fmt.Errorf("behind the aggregator is a %T, not an API server", aggregator.NextDelegate())
	}
	swagger := cached.Once(cached.Func(func() (*spec.Swagger, string, error) {
		routes := restfuladapter.AdaptWebServices(server.Handler.GoRestfulContainer.RegisteredWebServices())
		s, err := builder.BuildOpenAPISpecFromRoutes(routes, conf)
		if err != nil {
			return nil, "", err
		}
		s.Definitions = handler.PruneDefaults(s.Definitions)
		return s, "built-in", nil
	}))
	handler.NewOpenAPIServiceLazy(swagger).RegisterOpenAPIVersionedService("/openapi/v2", server.Handler.NonGoRestfulMux)
	return nil
}
