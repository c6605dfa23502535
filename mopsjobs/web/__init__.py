"""The web page and its API: everything is read from the cache, nothing is written, no request reaches the registry.

server    sockets, signals, threads: from the start to a clean end
app       the pages, and what every answer carries
security  whom we answer, and the headers
api       the JSON of the commands, metrics, health
openapi   the document that describes it
asked     a query string as filters: the flags of `list`, by the same parser
live      one look at the cache for all browsers, and the streams that tell them
shown     a job and the charts as templates want them
svg       numbers as coordinates
"""
