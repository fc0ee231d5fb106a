package upstream

import _ "github.com/edgebox/edgebox/pkg/upstream/workqueue" // for every component that is adapted
