"""Accept the associations of modalities and pass them on to ORTHANC1. Read relay, then channel, gateway_link, admission, refusals, listener."""
