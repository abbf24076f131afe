"""Interactive part of a report: a study one explores in a browser, without a network.

Vega-Lite draws, from data that the page holds compressed. Without scripts the page is the same,
less this part. ``assets/vega.min.js`` is one released bundle: `vl_convert.javascript_bundle(
"window.vegaEmbed = vegaEmbed;", vl_version="6.4")` of vl-convert-python 1.9 renews it.
"""
