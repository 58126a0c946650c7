"""What stands on the report page: a module a section, and the template, style and script that show them.

results     records -> frames, the mean curves, and the facts of every cell, in one reading
boards      the leaderboards, a table a model and data set
rankings    agreement of metrics, critical differences, quality against cost
charts      drawings, as SVG that takes the colours of the page
scores      the scores of single images behind every cell
pictures    images and maps, small; the only module that needs torch
protocols   what every metric and method was asked to do, the certificate, the environment, and what is missing
"""
